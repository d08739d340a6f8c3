"""``python -m nextmem_agents.cli``, for torchrun and where no script is on the path."""

from nextmem_agents.cli.app import main

if __name__ == "__main__":
    main()
