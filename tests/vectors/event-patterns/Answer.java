import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import software.amazon.event.ruler.JsonRuleCompiler;
import software.amazon.event.ruler.Machine;

/** Reads cases, one JSON object a line, and writes each again with the answer of AWS's engine. README.md says how. */
public final class Answer {
    private Answer() {
    }

    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            ObjectNode entry = (ObjectNode) json.readTree(line);
            String pattern = entry.get("pattern").asText();
            if (JsonRuleCompiler.check(pattern) != null) {
                entry.put("answer", "refused");
            } else {
                Machine machine = new Machine();
                machine.addRule("rule", pattern);
                entry.put("answer", !machine.rulesForJSONEvent(entry.get("event").asText()).isEmpty());
            }
            out.println(json.writeValueAsString(entry));
        }
        out.flush();
    }
}
