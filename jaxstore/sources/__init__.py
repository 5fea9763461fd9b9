"""Any stored array as rows: local or remote, Zarr, HDF5, a run or memory; read chunk by chunk."""
