"""Who is who: apps, tokens, users with their settings, devices. Implements `IDirectory` and `IAccounts`.

Lives here: one module for each place where this may be kept. ``sql`` is the embedded default.
May not live here: messages and sync keys (storage), what follows from a sign-in (chat), who may ask for what (http).

What holds for each of them:

* Tokens and the secrets of apps are kept as hashes, and shown once.
* Device numbers are dense and never change; one is given only to who has a valid token.
* An answer to a sign-in is never older than a revocation or a change of settings that has been answered.
"""
