"""The kinds of students that can be derived from the teacher, one file each. Messages list them in this order."""

from graftcli.students.kinds.decoupled import Decoupled
from graftcli.students.kinds.dropped import Dropped
from graftcli.students.kinds.low_rank import LowRank
from graftcli.students.kinds.narrower import Narrower
from graftcli.students.kinds.pruned import Pruned
from graftcli.students.student_kind import StudentKind

KINDS: tuple[type[StudentKind], ...] = (Narrower, Pruned, LowRank, Decoupled, Dropped)
