"""vLLM's head and the logprobs it returns, by CONTRACT.md: a plugin of vLLM (entry point group vllm.general_plugins).

On by --additional-config '{"isologit": {}}'; without the option vLLM runs as it is. See docs/integrations/vllm.md.
"""


def register() -> None:
    """Called by vLLM once in each of its processes, before any model is made; calling it again changes nothing."""
    from isologit.integrations.vllm import _start

    _start.install()
