"""The signatures that other projects' code calls, each in a module of its own: trl, verl, liger, prime_rl.

Plugins, which engines load by themselves: vllm, sglang.
"""
