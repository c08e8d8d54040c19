"""What other tools make of scans and what they take: their depth maps in, the layouts they read out."""
