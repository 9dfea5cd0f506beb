"""``python -m endorm``, and the console command ``endorm``."""

import sys

from endorm.ours import require_ours


def main() -> int:
    """Run the command line, after a look at whose modules it would run; returns the exit code."""
    try:
        require_ours()
    except ImportError as error:
        print(f"endorm: {error}", file=sys.stderr)
        return 2
    from llm_bridge.commands.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
