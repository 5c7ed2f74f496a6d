"""SGLang's head and the logprobs it returns, by CONTRACT.md: a plugin of SGLang (entry point group sglang.srt.plugins).

On where SGLANG_PLUGINS, SGLang's own list of plugins, names isologit; elsewhere SGLang runs as it is. See
docs/integrations/sglang.md.
"""

import os


def register() -> None:
    """Called by SGLang once in each of its processes, before any model is made."""
    named = os.environ.get("SGLANG_PLUGINS", "").split(",")
    if "isologit" not in (name.strip() for name in named):
        return
    try:
        from isologit.integrations.sglang import _start

        _start.install()
    except Exception as error:
        # SGLang logs the exception of a plugin, and goes on without it: not of this one.
        raise SystemExit(f"isologit cannot be put into SGLang: {error}") from error
