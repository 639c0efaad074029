"""Where passes run: threads of this process, or a Dask cluster."""
