"""`python -m litengine MODEL DATA VERB …`: runs any project, whose two classes are named by import path."""

import sys

from litengine.cli import main

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
