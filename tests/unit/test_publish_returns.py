"""What publishing returns is what the store holds."""

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.paths import MEMORY


def test_the_tasks_of_a_published_graph_are_returned_as_the_store_holds_them():
    with EnhancedCloudTaskPublisher(MEMORY) as publisher:
        done, failed = publisher.publish("echo"), publisher.publish("echo")
        publisher.update_status(done.task_id, "completed")
        publisher.update_status(failed.task_id, "failed")
        graph = publisher.publish_graph(
            {
                "report": {"name": "echo", "depends_on": ["left", "right"], "payload": {"text": "${left.a}"}},
                "left": {"name": "echo", "depends_on": [done.task_id]},
                "right": {"name": "echo", "depends_on": ["left"], "tags": ["a"], "delay": 60},
                "never": {"name": "echo", "depends_on": [failed.task_id], "on_dependency_failure": "cancel"},
                "after-never": {"name": "echo", "depends_on": ["never"], "on_dependency_failure": "cancel"},
            }
        )
        assert graph == {key: publisher.get_task(task.task_id) for key, task in graph.items()}
