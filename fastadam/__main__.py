"""`python -m fastadam info` and `python -m fastadam warmup`."""

import argparse

from fastadam.environment import info, warmup


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="python -m fastadam", description=__doc__)
    parser.add_argument("command", choices=("info", "warmup"), help="describe the environment, or compile every kernel")
    if parser.parse_args().command == "warmup":
        print(f"Every kernel is compiled and cached: {warmup():.1f} s")
        return
    for name, value in info().items():
        print(f"{name:>16}  {value}")


if __name__ == "__main__":
    main()
