"""`python -m metergate` is `metergate`."""

import sys

from gateway.commands.root import main

if __name__ == "__main__":
    sys.exit(main())
