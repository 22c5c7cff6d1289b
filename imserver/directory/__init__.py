"""Who is who: apps, tokens, users and their settings, devices, groups, friends, blacklists. Implements `IDirectory`,
`IAccounts`, `IGroups` and `IRelations`.

Lives here: one module for each place where this may be kept. ``sql`` (with its statements in ``sign_ins``, ``accounts``
and ``phones``), ``groups`` and ``relations`` are the embedded default. ``words``, those that are not to be said, are in
a file (`IWords`).
May not live here: messages and sync keys (storage), what follows from a sign-in or a group (chat), who may ask for what
(http).

What holds for each of them:

* Tokens and the secrets of apps are kept as hashes, and shown once.
* Device numbers are dense and never change; one is given only to who has a valid token.
* An answer to a sign-in is never older than a revocation or a change of settings that has been answered.
* A group is never older than a change that has been answered, nor, if it was changed by somebody else, than its cache
  keeps it. Friends and blacklists are as the database has them now.
* What cannot be looked up is `Unavailable`, never "no".
"""
