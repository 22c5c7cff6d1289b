"""HTTP: what back ends, apps, operators and probes ask of the server.

Lives here: a module for each family of calls, each with its table. Of the two APIs for others (``backend``,
``application``) a table has `endpoints.Endpoint`, by which a call is carried out and described (``openapi``), for those
whom ``access`` lets in; ``history`` and ``settings`` do what both need. ``operator`` and its kind, ``health`` and
``metrics`` have plain routes. ``calls``: what a call is made of; ``errors``: what a failure looks like from outside;
``site``: the tree of all calls, and the listener's limits.
May not live here: anything that decides or stores. A call goes through interfaces, and through chat's policy and
delivery, as a client's command does.

What holds for every call:

* A write is answered with 200 only after its commit, and is finished although its caller has gone meanwhile.
* Bodies are JSON of known types, or the content of a message; at most 1 MiB, never parsed as forms.
* Of the two APIs: a mistake is 400, and nothing was done; 500 is the server's own failure. For operators there are 404,
  409 and 503, too.
* Errors are JSON; what is not the caller's mistake is logged here and not explained there.
"""
