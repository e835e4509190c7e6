"""``python -m ebscrypt.daemon VOL``: see main.py."""

import sys

from ebscrypt.daemon.main import main

sys.exit(main(sys.argv[1:]))
