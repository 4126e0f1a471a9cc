"""`python -m igpt_jax` is `igpt`."""

from igpt_jax.cli import run_and_exit

if __name__ == "__main__":
    run_and_exit()
