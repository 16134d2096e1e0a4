"""Weights from files into models: found by content, loaded strictly, with a report."""
