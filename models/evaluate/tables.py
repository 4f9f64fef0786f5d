"""Markdown tables and numbers."""


def table(head, rows, rest="---"):
    """The columns after the first are aligned as `rest`."""
    line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"
    return "\n".join([line(head), line(["---", *[rest] * (len(head) - 1)]), *(line(row) for row in rows)]) + "\n"


def numbers(rows):
    """A table of numbers, the first row being the head."""
    return table(rows[0], rows[1:], "---:")


def percent(value, digits=1):
    return f"{100 * value:.{digits}f} %"


def percents(values, digits=0):
    """One unit for several percentages: `35, 45, 60 %`."""
    return ", ".join(f"{100 * value:.{digits}f}" for value in values) + " %"


def number(value, digits=3):
    return f"{value:.{digits}f}"


def spread(triple, digits=3, sign=""):
    value, low, high = triple
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"
