"""How much is computed at a time. No number here changes a bit of any result; together they keep what a call allocates
beyond operands and results below 256 MiB."""

# Elements of f64: of a block of weight rows (32 MiB) and of hidden rows, of their products (8 MiB each of some eight
# that live at a time), and of the operands of open logits (8 MiB each of some five).
OPERAND = 2**22
PRODUCTS = 2**20
PAIRS = 2**20
# Bytes of whole rows of f32 logits, and of a mask beside them.
ROWS = 2**26
