"""The bus: hints between processes, so that nobody has to ask the database all the time."""

from flexiroaster.coordination.bus.base import Bus, Callback, Message
from flexiroaster.coordination.bus.local import LocalBus
from flexiroaster.coordination.bus.shared import SharedBus, open_bus

__all__ = ["Bus", "Callback", "LocalBus", "Message", "SharedBus", "open_bus"]
