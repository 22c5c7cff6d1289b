"""HTTP: what operators, probes and (later) back ends ask of the server.

Lives here: a module for each family of calls (``health``, ``metrics``, ``operator``), each with its table of routes;
``calls``, what a call is made of; ``errors``, what a failure looks like from outside; ``site``, the listener's limits.
May not live here: anything that decides or stores. A call goes through interfaces, and through chat's policy and
delivery, as a client's command does.

What holds for every call:

* A write is answered with 200 only after its commit, and is finished although its caller has gone meanwhile.
* Bodies are JSON of known types, at most 1 MiB, never parsed as forms.
* Errors are JSON; what is not the caller's mistake is logged here and not explained there.
"""
