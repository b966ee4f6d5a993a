"""What heads are trained for: a loss, and how outputs become scores. One class per kind of task.

All of them work on a stack of heads: outputs have a leading `heads` axis, losses and values are one per head.
`decode` turns the outputs of a batch into rows of scores, `scores` makes the table of one head from them.
"""

from wavbench.downstream.classify import Classify as Classify
from wavbench.downstream.classify import Frames as Frames
from wavbench.downstream.classify import Joined as Joined
from wavbench.downstream.ctc import Ctc as Ctc
from wavbench.downstream.ctc import Transcribe as Transcribe
from wavbench.downstream.translate import Translate as Translate
from wavbench.downstream.verify import Verify as Verify
