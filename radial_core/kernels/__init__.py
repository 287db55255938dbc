"""Our own kernels, one a file, in Triton's languages. Imported when a GPU first asks for one."""
