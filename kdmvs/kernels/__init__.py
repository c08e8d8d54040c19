"""Inner loops: Numba for a CPU, Triton for a GPU. Each has a slow clear twin in torch or NumPy that the tests ask."""
