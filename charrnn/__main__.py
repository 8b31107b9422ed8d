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
    # Threads that have nothing to do sleep. They would spin, which on two cores that others use as well takes from their own
    # siblings the very time that they wait for: a hundredfold slower. OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from charrnn.cli import main as run

    run()


if __name__ == "__main__":
    main()
