"""What the networks learn from: consistency between views (teacher), pseudo probability (student)."""
