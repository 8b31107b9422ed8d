"""The colours of surprisal: a colour map, the text colour that is legible on each, and what a terminal can show of them."""

import sys

# Magma (van der Walt & Smith 2015): it only gets lighter, so that people who see no red or green, and printers without
# colours, see the same order.
MAGMA = "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf"
LEVELS = 17  # half bits, from 0 to 8 and more
# Backgrounds and text colours for terminals of 16 colours: blue, grey, light grey and yellow.
SIXTEEN = ("44;97", "100;97", "47;30", "103;30")

Colour = tuple[int, int, int]


def magma(share: float) -> Colour:
    """The colour at the fraction `share`, 0 to 1, of the map."""
    stops = [tuple(bytes.fromhex(stop)) for stop in MAGMA.split()]
    at = share * (len(stops) - 1)
    k = min(int(at), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (at - k)) for a, b in zip(stops[k], stops[k + 1], strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """The relative luminance, 0 to 1, as WCAG 2 defines it."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink(background: Colour) -> Colour:
    """White or black, whichever stands out more from the background: by a contrast of 4.58 at least (WCAG asks for 4.5)."""
    return (0, 0, 0) if luminance(background) > 0.179 else (255, 255, 255)


def _nearest(colour: Colour) -> tuple[int, Colour]:
    """The nearest of the 216 colours in the cube of a 256-colour terminal: its number and its value."""
    steps = (0, 95, 135, 175, 215, 255)
    near = [min(range(6), key=lambda i: abs(steps[i] - part)) for part in colour]
    return 16 + 36 * near[0] + 6 * near[1] + near[2], (steps[near[0]], steps[near[1]], steps[near[2]])


def palette(system: str) -> list[str]:
    """The escape parameters of each level's colours on a terminal: of "truecolor", "256" or the 16 of "standard"."""
    colours = [magma(k / (LEVELS - 1)) for k in range(LEVELS)]
    if system == "truecolor":
        return [f"48;2;{r};{g};{b};38;2;{f};{f};{f}" for (r, g, b), (f, *_) in ((c, ink(c)) for c in colours)]
    if system == "256":
        near = map(_nearest, colours)
        return [f"48;5;{number};38;5;{231 if ink(colour)[0] else 16}" for number, colour in near]
    return [SIXTEEN[k * len(SIXTEEN) // LEVELS] for k in range(LEVELS)]


def terminal_palette() -> list[str] | None:
    """The palette of standard output; None where it has no colours (a pipe, NO_COLOR, TERM=dumb). FORCE_COLOR counts."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    return None if console.no_color or console.color_system is None else palette(console.color_system)
