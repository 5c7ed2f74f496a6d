"""How much is computed at a time. No number here changes a bit of any result; together they keep what a call allocates
beyond operands and results below 256 MiB."""

# Elements of f64: of a block of weight rows (32 MiB) and of hidden rows, of their products (4 MiB each of some sixteen
# that live at a time), and of the operands of open logits (4 MiB each of some twelve).
OPERAND = 2**22
PRODUCTS = 2**19
PAIRS = 2**19
# Bytes of whole rows of f32 logits, and of a mask beside them.
ROWS = 2**26
