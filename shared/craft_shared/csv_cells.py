"""CSV cells that a spreadsheet shows as text, whatever a client or a server wrote into them."""


def spreadsheet_safe(value: str) -> str:
    """A cell that is no formula: `'` comes before what a spreadsheet would calculate."""
    return "'" + value if value[:1] in "=+-@\t\r" and value else value
