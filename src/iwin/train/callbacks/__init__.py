"""What accompanies a run: progress, curves."""
