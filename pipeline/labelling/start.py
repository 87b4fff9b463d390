"""Starts a labelling job. Imports little, so that children start at once where they are needed."""

from pipeline.labelling.driving.local_children import LocalChildren, may_be_local
from pipeline.runtime.settings import Settings
from pipeline.runtime.status_line import NO_STATUS, StatusLine


def label_corpus(settings: Settings, *, status: StatusLine = NO_STATUS) -> int:
    """Labels the images of the corpus that the table lacks. Returns the exit code.

    Args:
        status: shows what is done until work begins.

    Raises:
        WrongUsage: settings, corpus, table or model are wrong.
        StorageFault, ConnectionError: storage or cluster failed.
    """
    with LocalChildren() as children:
        if may_be_local(settings):
            children.start_early()
        # Loaded here: children load their libraries meanwhile.
        from pipeline.labelling.run import label, new_run_id

        return label(settings, run_id=new_run_id(), status=status, children=children)
