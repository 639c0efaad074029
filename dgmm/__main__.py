"""``python -m dgmm``: the command line, where the ``dgmm`` script is not on the path."""

import sys

from dgmm.cli import main

if __name__ == "__main__":
    sys.exit(main())
