"""tests/routing/everyday.yaml, read."""

from pathlib import Path

import yaml

PASTES = {
    "minutes": (
        "Present: Anna, Ravi, Tom. Anna opened the meeting at 9:05. The budget of the spring campaign was approved "
        "with a reserve of ten percent. Ravi will ask the printer for a new offer by Friday. Tom reported that the web "
        "shop was slow on Monday; the provider is looking into it. The next meeting is on the 14th. "
    ),
    "letter": (
        "Dear Mr Lindqvist, thank you for your visit on 3 June. We were glad to show you the mill, and sorry that "
        "the rain kept us from the garden. The samples you asked for will leave on Thursday. Please tell us whether "
        "the blue cloth is still wanted. With kind regards, Margarethe Olsson. "
    ),
}


def everyday() -> list[tuple[str, str]]:
    """(tier, prompt) pairs."""
    entries = yaml.safe_load(Path(__file__).with_name("everyday.yaml").read_text("utf-8"))
    return [
        (entry["tier"], entry["text"] + ("\n\n" + PASTES[entry["paste"]] * entry["times"] if "paste" in entry else ""))
        for entry in entries
    ]
