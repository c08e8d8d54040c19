"""Self-supervised multi-view stereo by knowledge distillation (KD-MVS), as a library of file-producing stages."""
