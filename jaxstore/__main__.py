"""`python -m jaxstore`, where the command `jaxstore` is not on the path."""

from jaxstore.cli import app

if __name__ == "__main__":
    app(prog_name="jaxstore")
