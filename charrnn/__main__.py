"""`python -m charrnn` is `charrnn`: the program, which a signal can end from its first moment on."""

import os
import signal


def main() -> None:
    """Run the program. Until training takes care of them, Ctrl-C and its kin end it at once: there is nothing to save."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # ignored: by nohup or a shell's '&'
            signal.signal(number, lambda number, _: os._exit(128 + number))
    for descriptor in range(3):  # a file of ours must not take the place of a closed standard stream
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from charrnn.cli import main as run

    # It leaves at once: to take torch down takes the interpreter half a second, and the threads of several ranks don't always
    # live through it.
    try:
        run()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)


if __name__ == "__main__":
    main()
