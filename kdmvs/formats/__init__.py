"""One module per file format: read and write; a file that is not what it promises is a FormatError."""
