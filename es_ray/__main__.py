"""`python -m es_ray` is the command `es-ray`."""

from es_ray.cli.main import script

if __name__ == "__main__":
    script()
