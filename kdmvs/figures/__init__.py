"""The pictures: depth maps and clouds of all models side by side, training curves."""
