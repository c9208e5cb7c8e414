"""`python -m medcli`: what `accelerate launch -m medcli` and `torchrun -m medcli` run."""

from medcli.cli.app import run

if __name__ == "__main__":
    run()
