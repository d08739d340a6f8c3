"""A local web page that shows what is remembered: texts, latents, what the decoder makes of them, and where they lie.

``nextmem inspect`` serves it on 127.0.0.1 only. Needs the extra ``inspect`` (starlette and uvicorn).
"""

from nextmem_agents.inspector.server import running, serve

__all__ = ["running", "serve"]
