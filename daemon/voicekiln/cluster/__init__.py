"""The same conversions on a Dask cluster, one that the user runs or a small one of our own.

`line` minds the `connection` to the scheduler, `keeper` plays the worker's part for the supervisor, `host` and `place`
run in the Dask workers, which `farewell` lets leave in an orderly way, `letters` and `parcels` are what goes to and
fro, by one of the `ways`, and `crew` is all of it to the dispatch. Where files go through a folder that all hosts have
mounted, `shared` is the daemon's side of it and `ferry` the Dask workers'; `hand` is how both can bear that it hangs.
Dask is known to `line`, `connection`, `ways`, `shared`, `host` and `crew` alone.

Accepted: who may speak to the scheduler or a Dask worker may run any code there, and so in this daemon, because Dask
pickles. TLS with certificates on both sides is what keeps strangers out. Strangers' files are another matter: on every
host they are opened by the caged process alone.
"""
