"""WHAT people touch: front ends. They may import anything, and nothing imports them."""
