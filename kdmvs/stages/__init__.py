"""One short module per stage: settings and paths in, files out. The command line and the rules call nothing else."""
