"""The message bus: hints between processes, which replace constant polling of the database."""

from flexiroaster.coordination.bus.base import Bus, Callback, Message
from flexiroaster.coordination.bus.local import LocalBus
from flexiroaster.coordination.bus.shared import SharedBus, open_bus

__all__ = ["Bus", "Callback", "LocalBus", "Message", "SharedBus", "open_bus"]
