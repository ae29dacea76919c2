"""``python -m pyjuice_bridge``."""

from pyjuice_bridge.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m pyjuice_bridge")
