"""What a plan says of its verified runs, in which a party that cheats is caught."""

from typing import Annotated

from pydantic import Field

from moiety_shared.plan.cost import Cost
from moiety_shared.plan.layers import Public

Bytes = Annotated[int, Field(gt=0, le=1 << 40)]


class Verified(Public):
    """The cost of a verified run. The owner measures it when the plan is compiled; parties and provider check the size
    of a row, by which they choose how many they keep."""

    rounds: Annotated[int, Field(gt=0, le=100_000)]
    online_bytes: Bytes = Field(description="that each party sends for a run of one input")
    row_bytes: Bytes = Field(description="that the crypto provider sends for one input")

    def cost(self, rows: int) -> Cost:
        """The cost of a run over `rows` inputs. What a check sends is counted for each, so it is an upper bound."""
        return Cost(self.rounds, rows * self.online_bytes, rows * self.row_bytes)
