"""The speed and the memory of the product, measured from outside, beside other ways to do the same work. Run it by scripts/bench."""
