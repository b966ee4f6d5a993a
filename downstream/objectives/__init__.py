"""What heads are trained for: a loss, and how outputs become scores. One class per kind of task.

All of them work on a stack of heads: outputs have a leading `heads` axis, losses and values are one per head.
`decode` turns the outputs of a batch into rows of scores, `scores` makes the table of one head from them.
"""

from wavbench.downstream.objectives.classify import Classify as Classify
from wavbench.downstream.objectives.classify import Frames as Frames
from wavbench.downstream.objectives.classify import Joined as Joined
from wavbench.downstream.objectives.ctc import Ctc as Ctc
from wavbench.downstream.objectives.ctc import Transcribe as Transcribe
from wavbench.downstream.objectives.translate import Translate as Translate
from wavbench.downstream.objectives.verify import Verify as Verify
