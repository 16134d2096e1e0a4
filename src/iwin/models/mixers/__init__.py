"""Mixers, one idea a file: modules that map (B, H, W, C) to (B, H, W, C) inside a block.

A mixer is `mixer(spec: BlockSpec, **keys of its own yaml)`. Norm, residual, drop-path and the structure
that arranges attention and local mixers belong to the block. A mixer that depends on the map's size has
`set_spec(spec)`, called when a built model gets another input size.
"""
