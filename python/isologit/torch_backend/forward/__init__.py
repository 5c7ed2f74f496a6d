"""The operators of the forward pass (CONTRACT.md 10) made of torch's own operations: values in f64 with a bound,
rounded where that proves one result. Rows in which it does not go to the library's core on the CPU.

Gradients are f64 in an order that shapes alone decide. Vendors' sums and products may take another order for another
number of rows: where that would show, sums are trees (folds.tree_sum) and products are of one shape (alike).

rows        rounding, and what the core settles
linears     linear, combine, residual, and gradients of these and of embedding
norms       RMSNorm and LayerNorm
gates       the gates
rotary      rotary embeddings
sequences   which keys a query sees, and how many are looked at together
attention   attention
attention_gradients
alike       products that sum all rows in one order
"""
