"""`python -m maskformer.zoo` prints the published models."""

from maskformer.zoo import MODELS
from maskformer.zoo.table import table

if __name__ == "__main__":
    print(table(MODELS.values()))
