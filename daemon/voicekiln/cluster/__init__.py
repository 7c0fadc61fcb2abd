"""The same conversions on a Dask cluster that the user runs.

`line` holds the connection to the scheduler, `keeper` plays the worker's part for the supervisor, `host` and `place`
run in the Dask workers, `letters` and `parcels` are what goes to and fro. Only `line`, `keeper` and `host` know Dask.

Accepted: who may speak to the scheduler or a Dask worker may run any code there, and so in this daemon, because Dask
pickles. TLS with certificates on both sides is what keeps strangers out. Strangers' files are another matter: on every
host they are opened by the caged process alone.
"""
